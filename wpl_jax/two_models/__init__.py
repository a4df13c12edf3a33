"""The two-model experiment (Benyahia et al., 2019, section 4.1)."""
