#!/usr/bin/env python3
"""Print running, success or failed of one job."""

import sys

from systems import system

print(system().status(sys.argv[-1]))
