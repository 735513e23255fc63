"""How benchmarks read and count answers: pure functions, one file a family.

Nothing here knows a model, a picture or a file. POPE's and GQA's rules are in `eval.answers`,
GenEval's in `eval.geneval`.
"""
