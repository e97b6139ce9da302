"""torch.compile for the networks of a model; the whole LightningModule would have many graph breaks."""

from lightning.pytorch import Callback, LightningModule, Trainer

from gen_lightning.errors import UserError


class Compile(Callback):
    """Compiles networks of the model in place, so that the names in its checkpoints stay the same.

    Do not use it with a gradient penalty: the penalty needs a second derivative, which a compiled discriminator does
    not support.

    Args:
        networks: attributes of the model, such as generator and discriminator, or encoder and decoder

    Raises:
        UserError: the model has no such network (in `setup`).
    """

    def __init__(self, networks: list[str]) -> None:
        self.networks = networks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compile the networks; torch does the work at their first call."""
        children = dict(pl_module.named_children())
        for name in self.networks:
            if name not in children:
                raise UserError(
                    f"`Compile.networks` has {name!r}, and {type(pl_module).__name__} has no such network. Choose among"
                    f" {', '.join(children)}."
                )
            children[name].compile()
