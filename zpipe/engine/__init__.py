"""Open, plan, carry, wait, fall back, count, report: the only place that sleeps.

Refuses to know how it is shown: what happens is told to a `Feedback`, and returned as a `Report`.
"""
