"""Sources of data as users have it: one module a family of formats, all map-style.

Nothing is ever written beside a user's files, and what is kept in memory is where each sample
lies, not the sample.
"""
