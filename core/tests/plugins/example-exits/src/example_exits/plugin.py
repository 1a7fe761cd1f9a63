"""Calls sys.exit while it is imported."""

import sys

sys.exit("this plugin needs a licence")
