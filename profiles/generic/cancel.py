#!/usr/bin/env python3
"""Cancel jobs by their numbers."""

import sys

from systems import system

system().cancel(sys.argv[1:])
