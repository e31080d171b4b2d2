"""The mutation check: make one mistake at a time in the code and see whether a test notices."""
