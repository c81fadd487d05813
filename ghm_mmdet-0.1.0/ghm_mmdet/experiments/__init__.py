"""Trainings: run by MIM, resumed, shared between processes, and what they leave.

`reproduce`, `compare` and the studies are lists of experiments for this engine.
"""
