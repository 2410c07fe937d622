"""Spark as the engine of large populations: whole buckets are tasks, and the functions are those of one machine.

What is sent are descriptions of tasks, never rows: ``mapInArrow`` and its kind would split a member's rows among
batches. A task opens the lake at the version that the driver pinned and answers with what a local process would have
given; the driver alone writes results, so that whoever is lost, retried or speculated about counts once (ADR 0272).
"""
