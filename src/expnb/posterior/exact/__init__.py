"""The density of one effect from two arms, and what is stated of it: numbers in, numbers out."""
