"""The hyperparameters of every method: their types, defaults, ranges and descriptions. No TensorFlow here.

Mistakes in hyperparameter files are therefore reported before TensorFlow is imported. A method that is not built in may
define its schema in its own file.
"""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anomaly_toolbox.errors import InputError

LONGEST_VALUE = 80  # characters of a value in an error message

SCORE = "the score that decides: the paper's, or another of `test.scores`"
ComparedScore = Literal["paper", "residual", "latent_neighbours", "feature_neighbours", "mahalanobis"]


class ScoringHyperparameters(BaseModel):
    """What every method has: which images it sees and how they are scored.

    Types are strict ("0.1" is not accepted for 0.1), and unknown names are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    anomalous_label: int | str | None = Field(None, description="the label that counts as anomalous")
    class_label: int | str | None = Field(None, description="the class to look at, where a dataset has several")
    image_size: int = Field(
        32, ge=16, le=1024, multiple_of=16, description="side that images are resized to, in pixels"
    )
    batch_size: int = Field(64, ge=2, le=100_000, description="images in one step")
    shuffle_buffer_size: int = Field(
        10_000, ge=1, le=1_000_000_000, description="images among which the next one is drawn"
    )
    score: Literal["paper", "residual"] = Field("paper", description=SCORE)
    memory_size: int = Field(
        5000, ge=1, le=10_000_000, description="normal training images that scores by comparison remember"
    )
    validation_size: int | None = Field(
        None, ge=2, le=1_000_000_000, description="validation images that are used, a fixed sample; none: all"
    )


class Hyperparameters(ScoringHyperparameters):
    """What every method that is trained in epochs has besides."""

    epochs: int = Field(15, ge=1, le=1_000_000, description="passes over the training images")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="step size of Adam")
    optimizer: Literal["adam"] = Field("adam", description="kept for earlier files: Adam is the papers' choice")
    step_log_frequency: int = Field(
        50, ge=1, le=1_000_000_000, description="training steps from one TensorBoard point to the next"
    )
    select_by: Literal["auprc", "auroc", "loss", "last"] = Field(
        "auprc", description="validation figure that decides which epoch is kept"
    )
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better one")


class AnoGANHyperparameters(Hyperparameters):
    """What may stand in the `anogan` section of a hyperparameter file; defaults are the paper's where it has them."""

    width: int = Field(64, ge=1, le=1024, description="channels of the first convolution; doubled at each halving")
    latent_vector_size: int = Field(100, ge=1, le=100_000, description="length of z")
    lambda_: float = Field(0.1, ge=0, le=1, description="λ of (6): weight of D's features against the residual")
    gamma: int = Field(500, ge=0, le=1_000_000, description="Γ: steps of the search for each image")
    search_learning_rate: float = Field(0.02, gt=0, le=10, description="step size of the search's Adam")
    restarts: int = Field(1, ge=1, le=1000, description="searches for each image; the best one counts")
    validation_size: int | None = Field(
        500, ge=2, le=1_000_000_000, description="validation images that are used, a fixed sample; none: all"
    )
    validation_gamma: int = Field(50, ge=0, le=1_000_000, description="steps of the search after each epoch")
    warm_start: bool = Field(False, description="begin the search at E(x), with an encoder fitted after the GAN")
    encoder_steps: int = Field(3000, ge=1, le=100_000_000, description="training steps of that encoder")
    score: ComparedScore = Field("paper", description=SCORE)

    @model_validator(mode="after")
    def _codes_need_an_encoder(self):
        if self.score in ("latent_neighbours", "mahalanobis") and not self.warm_start:
            raise ValueError(f"score {self.score} compares codes of an encoder; it needs warm_start to be true")
        return self


class EGBADHyperparameters(Hyperparameters):
    """What may stand in the `egbad` section of a hyperparameter file; defaults are the paper's."""

    image_size: int = Field(28, ge=16, le=1024, multiple_of=4, description="side that images are resized to, in pixels")
    batch_size: int = Field(100, ge=2, le=100_000, description="images in one step")
    epochs: int = Field(100, ge=1, le=1_000_000, description="passes over the training images")
    learning_rate: float = Field(1e-5, gt=0, le=1, description="step size of Adam")
    width: int = Field(
        64, ge=2, le=1024, multiple_of=2, description="channels of D's first convolution; scales every network"
    )
    latent_vector_size: int = Field(200, ge=1, le=100_000, description="length of the codes z and E(x)")
    discriminator_dropout: float = Field(0.5, ge=0, le=0.99, description="share of D's units that each step leaves out")
    weight_averaging: float = Field(0.999, ge=0, lt=1, description="memory of the averaged weights that score images")
    reconstruction_loss_weight: float = Field(
        0.0, ge=0, description="weight of mean |x - G(E(x))| in E's loss; not in the paper"
    )
    alpha: float = Field(0.9, ge=0, le=1, description="α of the score: weight of the residual against D's part")
    scoring: Literal["feature_matching", "cross_entropy"] = Field(
        "feature_matching", description="D's part of the score: distance of its features, or -log D(x, E(x))"
    )
    score: ComparedScore = Field("paper", description=SCORE)


class GANomalyHyperparameters(Hyperparameters):
    """What may stand in the `ganomaly` section of a hyperparameter file; defaults are the paper's."""

    width: int = Field(64, ge=1, le=1024, description="channels of the first convolution; doubled at each halving")
    latent_vector_size: int = Field(100, ge=1, le=100_000, description="length of the codes G_E(x) and E(G(x))")
    adversarial_loss_weight: float = Field(1.0, ge=0, description="w_adv of (11)")
    contextual_loss_weight: float = Field(50.0, ge=0, description="w_con of (11)")
    enc_loss_weight: float = Field(1.0, ge=0, description="w_enc of (11)")
    discriminator_loss_floor: float = Field(0.2, ge=0, description="D waits while its loss is below; 0: never")
    score: ComparedScore = Field("paper", description=SCORE)


class KNNHyperparameters(ScoringHyperparameters):
    """What may stand in the `knn` section of a hyperparameter file."""

    image_size: int = Field(28, ge=4, le=1024, description="side that images are resized to, in pixels")
    batch_size: int = Field(100, ge=2, le=100_000, description="images in one step")
    memory_size: int = Field(60_000, ge=1, le=10_000_000, description="normal training images that are compared with")
    neighbours: int = Field(5, ge=1, le=10_000, description="nearest training images whose distance counts")


class PCAHyperparameters(ScoringHyperparameters):
    """What may stand in the `pca` section of a hyperparameter file."""

    image_size: int = Field(28, ge=4, le=1024, description="side that images are resized to, in pixels")
    batch_size: int = Field(100, ge=2, le=100_000, description="images in one step")
    memory_size: int = Field(60_000, ge=2, le=10_000_000, description="normal training images that it is fitted to")
    explained_variance: float = Field(
        0.9, gt=0, lt=1, description="share of the images' variance that the principal components explain"
    )


def validate(schema: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    """The hyperparameters of a trial.

    Raises:
        InputError: a value is wrong, or values contradict each other.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as problem:
        raise InputError(f"hyperparameters {shortened(values)}: {explain(problem)}") from None


def explain(problem: ValidationError) -> str:
    """Pydantic's reasons in one clause; a union of types has one reason for each type."""
    messages = dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in problem.errors())
    text = " or ".join(messages).replace("Input should be", "should be")
    return text[:1].lower() + text[1:]


def shortened(value: Any) -> str:
    """A value as JSON for an error message, cut to 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
