import subprocess
import sys


def test_a_flow_process_starts_no_accelerator():
    code = (
        "import sys\nimport flows.deploy, flows.pipeline\n"
        "print([name for name in ('jax', 'flax', 'tensorflow') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
