"""torch.compile where it helps: on the networks, not on the whole LightningModule."""

from lightning.pytorch import Callback, LightningModule, Trainer

from gen_lightning.errors import UserError


class Compile(Callback):
    """Compiles networks of the model in place, which keeps the names in its checkpoints.

    A gradient penalty needs a second derivative, which a compiled discriminator does not give: leave it out then.

    Args:
        networks: attributes of the model, such as generator and discriminator, or encoder and decoder

    Raises:
        UserError: the model has no such network.
    """

    def __init__(self, networks: list[str]) -> None:
        self.networks = networks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compiles them; the work is done at their first call."""
        children = dict(pl_module.named_children())
        for name in self.networks:
            if name not in children:
                raise UserError(f"The model has no network {name}: choose among {', '.join(children)}.")
            children[name].compile()
