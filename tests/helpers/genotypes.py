"""A genotype for the tests of the spaces of DARTS."""

# An operation of each kind on inputs and on nodes, in both cells.
CELLS = """Genotype(
    normal=[("sep_conv_3x3", 0), ("max_pool_3x3", 1),
            ("dil_conv_5x5", 2), ("skip_connect", 0)], normal_concat=[2, 3],
    reduce=[("skip_connect", 0), ("dil_conv_3x3", 1),
            ("avg_pool_3x3", 2), ("sep_conv_5x5", 1)], reduce_concat=[2, 3])"""
