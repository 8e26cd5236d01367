"""The families of losses, in the order of the documentation: a line each, and no loss is named."""

# isort: off
# ruff: noqa: F403
from fastloss.losses.regression import *
from fastloss.losses.robust import *
from fastloss.losses.binary import *
from fastloss.losses.uncertain import *
from fastloss.losses.censored import *
from fastloss.losses.counts import *
from fastloss.losses.classes import *
from fastloss.losses.vectors import *
from fastloss.losses.sequences import *
