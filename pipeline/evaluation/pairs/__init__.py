"""Benchmarks of pairs: of two items, which does the speech LM find likelier?"""
