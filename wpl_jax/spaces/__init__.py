"""Search spaces: one module each, one line each in ``SPACES``."""

from wpl_jax.common.registry import Registry

# By name: dataclasses with the methods of :class:`wpl_jax.supernet.Space`. The task
# gives the sizes that follow from its data.
SPACES = Registry(
    "wpl_jax.spaces",
    {
        "darts_cell": "wpl_jax.spaces.darts_cell:DartsCell",
        "genotype": "wpl_jax.spaces.genotype_network:GenotypeNetwork",
        "micro_cell": "wpl_jax.spaces.micro_cell:MicroCell",
        "nasbench201": "wpl_jax.spaces.nasbench201:NasBench201",
        "plain_recurrent": "wpl_jax.spaces.plain_recurrent:PlainRecurrent",
        "recurrent_cell": "wpl_jax.spaces.recurrent_cell:RecurrentCell",
        "residual": "wpl_jax.spaces.residual:ResidualNetwork",
    },
)
