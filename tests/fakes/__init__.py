"""Simulators and real processes that several suites share."""
