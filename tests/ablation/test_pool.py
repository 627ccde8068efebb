"""The worker processes of a study."""

from lafg_jax.ablation import pool


def test_a_worker_of_the_study_may_have_workers_that_decode(tmp_path):
  one = pool._Worker(0, str(tmp_path), {})
  try:
    # Python forbids daemons to have children: cells with data.num_workers would all fail.
    assert one.process.is_alive() and not one.process.daemon
  finally:
    one.process.kill()
    one.process.join()
