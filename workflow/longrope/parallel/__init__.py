"""
One stage over several processes, on one machine or many: `longrope --processes 8 --nodes 2 ...`.

`launch` starts the processes, on one machine at its `loopback` address, and says in one message why
they ended, for `reasons` that they left; `place` is where a process stands among them, `pulse` how
it knows that the others are alive; `sequence` cuts one long sequence over some of them (attention
by exchanging heads); `sharding` deals weights, gradients and optimiser states to all of them and
keeps checkpoints that any number of them can go on from. Stages are written for any number of
processes and do not ask how many there are.
"""
