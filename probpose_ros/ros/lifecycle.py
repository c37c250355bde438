"""rclpy's lifecycle node with two rough edges taken off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn


class SafeLifecycleNode(LifecycleNode):
    """A transition that the present state does not allow is refused (rclpy raises in the executor: the node dies).

    An exception in a transition is logged (rclpy swallows it without a word).
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._callbacks = {state: self._logged(callback) for state, callback in self._callbacks.items()}

    def _logged(self, callback: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(previous: Any) -> Any:
            try:
                return callback(previous)
            except Exception as error:
                if self.context.ok():
                    self.get_logger().error(f"{callback.__name__}: {type(error).__name__}: {error}")
                raise

        return run

    # rclpy's name-mangled method: both its services and its trigger_*() methods go through it.
    def _LifecycleNodeMixin__change_state(self, transition: int) -> TransitionCallbackReturn:  # noqa: N802
        if transition not in {available[0] for available in self._state_machine.available_transitions}:
            state = self._state_machine.current_state[1]
            self.get_logger().warning(f"transition {transition} is not possible in state {state!r}")
            return TransitionCallbackReturn.FAILURE
        return super()._LifecycleNodeMixin__change_state(transition)  # type: ignore[misc]
