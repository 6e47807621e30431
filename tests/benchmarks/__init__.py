"""Benchmarks: modules with a ``main()`` that prints a table. ``python -m tests.benchmarks [NAME]``; no test asserts a time."""
