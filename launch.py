"""Runs the job of a configuration; the same as the command ``wpl-jax``.

python launch.py --config=configs/two_models_digits.py --workdir=runs/digits
"""

from wpl_jax.jobs import launch

if __name__ == "__main__":
    launch.main()
