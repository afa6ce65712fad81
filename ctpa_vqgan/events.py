"""What a trainer tells its handlers beyond the events of ignite and MONAI."""

from ignite.engine import EventEnum


class TrainerEvents(EventEnum):
    """Events of :class:`~ctpa_vqgan.trainer.VQGANTrainer`.

    Attributes:
        RESUMING: first of all; a handler may load the state of a stopped run.
        RESUMED: the state is the one to go on from; nothing was computed yet.
        NOTHING_LEFT: the run was finished before; nothing but ENDED follows.
        STEP_SKIPPED: the iteration gave numbers that are not finite and changed nothing.
        ENDED: last of all, also after an error.
    """

    RESUMING = "resuming"
    RESUMED = "resumed"
    NOTHING_LEFT = "nothing_left"
    STEP_SKIPPED = "step_skipped"
    ENDED = "ended"
