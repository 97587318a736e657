"""The corpus of faults: what can be wrong with data, artifacts and machines, over every verb that meets it.

Each case ends with exit 2 to 5 and says what, where and how to fix; nothing is lost and nothing half-written is taken
for whole. What is odd but right must work, with the right result.

    test_data.py       label ids, sizes, bit depths, damaged pictures, bombs, links: over all verbs that read pictures
    test_artifacts.py  damage, other versions, other kinds, pickles, banks and indexes that do not fit
    test_machine.py    full disks, read-only outputs, too little memory, signals, two writers, no numbers
    test_kills.py      kill -9; the hundred of them are `python benchmarks/kills.py`
    test_wild.py       label maps, configs and manifests that hypothesis thinks of

Elsewhere: fuzzed shards in tests/bank, published checkpoints in tests/stages/test_import_published.py, kills at each
sync of a build in tests/stages/test_build_bank.py, of a training in tests/train/test_loop.py.
"""
