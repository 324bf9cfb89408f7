"""What the closed forms are made of, by torch or, on a CPU, by what was compiled as metarl was installed.

States are the rows of every matrix: ``[C, B, size]`` for C policies and B states of each. Which of the two it is
follows from the installation and the type of the numbers: with one thread inside each product, as training has it, no
bit depends on how many threads share the tasks.
"""
