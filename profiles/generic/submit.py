#!/usr/bin/env python3
"""Submit the job script named last; prints its number."""

import sys

from systems import Request, system

print(system().submit(Request(sys.argv[-1])))
