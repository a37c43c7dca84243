"""
The search for rescale factors: a space, optimisers that ask and are told, a scorer, one driver.

An optimiser proposes candidates and never knows what scores them (`optimisers`, `evolution`,
`cma_es`); the scorer never knows who asked (`scoring`); `driver` brings them together.
"""
