"""Shared parts of the commands: their options, errors and process settings, and the detectors that options name."""
