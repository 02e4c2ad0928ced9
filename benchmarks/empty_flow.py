"""A flow that does nothing but say so in a task: what Prefect costs without this project."""

from prefect import flow, get_run_logger, task


@task(persist_result=False)
def say() -> None:
    """Write one line of log."""
    get_run_logger().info("here")


@flow(name="empty")
def empty() -> None:
    """Call one task."""
    say()
