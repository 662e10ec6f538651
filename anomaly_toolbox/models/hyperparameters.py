"""The hyperparameters of all methods: their types, defaults, ranges and descriptions.

This file does not import TensorFlow, so mistakes in hyperparameter files are reported at once. A method that is not
built in may define its schema in its own file.
"""

import json
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from anomaly_toolbox.errors import InputError

Schema = TypeVar("Schema", bound=BaseModel)

LONGEST_VALUE = 80  # characters of a value in an error message

# Hyperparameters that several methods have, each with its own default.

ImageSize = Annotated[int, Field(le=1024, description="side length that images are resized to, in pixels")]
BatchSize = Annotated[int, Field(ge=2, le=100_000, description="number of images in one step")]
Epochs = Annotated[int, Field(ge=1, le=1_000_000, description="number of passes over the training images")]
LearningRate = Annotated[float, Field(gt=0, le=1, description="step size of the Adam optimizer")]
PyramidWidth = Annotated[
    int, Field(ge=1, le=1024, description="channels of the first convolution; they double where the image size halves")
]
WeightAveraging = Annotated[
    float,
    Field(ge=0, lt=1, description="decay of the averaged weights, which score images; 0 takes the latest weights"),
]
LatentVectorSize = Annotated[int, Field(ge=1, le=100_000, description="length of the latent vector")]
MemorySize = Annotated[
    int,
    Field(
        ge=1,
        le=10_000_000,
        description="highest number of normal training images that the memory banks are fitted to; of more images, a "
        "random sample is taken",
    ),
]
ValidationSize = Annotated[
    int | None,
    Field(ge=2, le=1_000_000_000, description="size of the fixed sample of validation images; none uses all of them"),
]

Precision = Literal["float32", "bfloat16"]

BasicScore = Literal["paper", "residual", "paper_excess", "residual_excess", "combined"]
PatchScore = Literal["patches", "patches_excess"]
EncoderScore = Literal[
    "encoder_neighbours",
    "latent_neighbours",
    "encoder_neighbours_excess",
    "latent_neighbours_excess",
]
ReconstructionScore = Literal["mahalanobis", "pathway", "mahalanobis_excess", "pathway_excess"]
FeatureScore = Literal[
    "discriminator_neighbours",
    "feature_neighbours",
    "discriminator_neighbours_excess",
    "feature_neighbours_excess",
]
LogitScore = Literal["discriminator", "discriminator_excess"]
AnyScore = Literal[BasicScore, PatchScore, EncoderScore, ReconstructionScore, FeatureScore, LogitScore]
#: The scores of an AAE, whose discriminator sees codes instead of images.
AAEScore = Literal[BasicScore, PatchScore, EncoderScore, ReconstructionScore, LogitScore]
#: The scores of f-AnoGAN, whose critic gives no probability.
CriticScore = Literal[BasicScore, PatchScore, EncoderScore, ReconstructionScore, FeatureScore]
#: The scores of a classifier, which generates no images.
ClassifierScore = Literal[BasicScore, PatchScore, EncoderScore]
#: The scores of AnoGAN that need the encoder of its warm start.
ENCODER_SCORES = ("encoder_neighbours", "latent_neighbours", "mahalanobis")
#: What is wrong if two labels are set that contradict each other.
TWO_LABELS = "anomalous_label and normal_label are both set; expected only one of them"
SELECTED_SCORE = Field(description="selected score, which sets the threshold and gives the metrics in tables")


class ScoringHyperparameters(BaseModel):
    """The hyperparameters of every method.

    Types are strict (the text "0.1" is no valid number), and unknown names are errors.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    anomalous_label: int | str | None = Field(None, description="class label that counts as anomalous")
    normal_label: int | str | None = Field(
        None, description="class label that is the only normal one; all others count as anomalous"
    )
    class_label: int | str | None = Field(None, description="class to look at, in datasets that have several")
    image_size: ImageSize = Field(32, ge=16, multiple_of=16)
    batch_size: BatchSize = 64
    shuffle_buffer_size: int = Field(
        10_000, ge=1, le=1_000_000_000, description="number of training images that are shuffled at a time"
    )
    score: Annotated[BasicScore, SELECTED_SCORE] = "paper"
    memory_size: MemorySize = 60_000
    validation_size: ValidationSize = None

    @model_validator(mode="after")
    def _check_that_labels_agree(self) -> Self:
        if self.anomalous_label is not None and self.normal_label is not None:
            raise ValueError(TWO_LABELS)
        return self


class Hyperparameters(ScoringHyperparameters):
    """The hyperparameters of every method that trains in epochs."""

    epochs: Epochs = 15
    learning_rate: LearningRate = 2e-4
    learning_rate_decay: bool = Field(
        False, description="whether the learning rate falls linearly to 0 until the end of the training"
    )
    optimizer: Literal["adam"] = Field("adam", description="the only choice; old hyperparameter files contain it")
    precision: Precision = Field(
        "float32",
        description="of convolutions and matrix products in training; bfloat16 is faster on machines that have it; "
        "images are always scored in float32",
    )
    step_log_frequency: int = Field(
        50, ge=1, le=1_000_000_000, description="number of training steps between two points in TensorBoard"
    )
    select_by: Literal["auprc", "auroc", "loss", "last"] = Field(
        "last",
        description="which epoch is kept: the last, or the best by a validation metric; auprc and auroc choose it with "
        "labelled anomalies of the tested class, which an unsupervised detector would not have",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="number of epochs without improvement after which training stops, and select_by is auprc unless it "
        "is set; none never stops it",
    )

    @model_validator(mode="before")
    @classmethod
    def _compare_epochs_if_there_is_patience(cls, values: Any) -> Any:
        """The last epoch is always the best by `last`, so patience needs another metric."""
        if isinstance(values, dict) and values.get("patience") is not None:
            return {"select_by": "auprc", **values}
        return values


class GANHyperparameters(Hyperparameters):
    """The hyperparameters of every built-in GAN, whose features and codes fill memory banks that give more scores."""

    score: Annotated[AnyScore, SELECTED_SCORE] = "paper"  # type: ignore[assignment]  # pydantic may widen a type
    weight_averaging: WeightAveraging = 0.0


class SearchHyperparameters(GANHyperparameters):
    """The hyperparameters of every GAN that searches latent vectors, by default those of AnoGAN's paper."""

    width: PyramidWidth = 64
    latent_vector_size: LatentVectorSize = 100
    lambda_: float = Field(
        0.1, ge=0, le=1, description="λ, weight of the discriminator's features in the score; the residual has 1 − λ"
    )
    gamma: int = Field(500, ge=0, le=1_000_000, description="Γ, number of steps of the search for each image")
    search_learning_rate: float = Field(0.02, gt=0, le=10, description="step size of Adam in the search")
    restarts: int = Field(1, ge=1, le=1000, description="number of searches for each image; the best one counts")
    validation_size: ValidationSize = 500
    validation_gamma: int = Field(
        50, ge=0, le=1_000_000, description="number of steps of the search in the validation after each epoch"
    )


class AnoGANHyperparameters(SearchHyperparameters):
    """The section `anogan` of a hyperparameter file."""

    warm_start: bool = Field(
        False, description="whether an encoder, fitted after the epochs, gives the start of the search"
    )
    encoder_steps: int = Field(
        3000, ge=1, le=100_000_000, description="number of training steps of the encoder of `warm_start`"
    )

    @model_validator(mode="after")
    def _check_that_codes_have_an_encoder(self) -> Self:
        if self.score.removesuffix("_excess") in ENCODER_SCORES and not self.warm_start:
            raise ValueError(f"score {self.score} needs an encoder: set warm_start to true")
        return self


class AAEHyperparameters(GANHyperparameters):
    """The section `aae` of a hyperparameter file."""

    score: Annotated[AAEScore, SELECTED_SCORE] = "paper"
    width: PyramidWidth = 64
    latent_vector_size: LatentVectorSize = 20
    adversarial_loss_weight: float = Field(
        0.1, ge=0, description="weight of the discriminator's judgement of the codes; the squared residual has 1"
    )


class ALADHyperparameters(GANHyperparameters):
    """The section `alad` of a hyperparameter file. The defaults are the paper's."""

    batch_size: BatchSize = 32
    width: int = Field(
        64, ge=2, le=1024, multiple_of=2, description="channels of the first convolutions; scales all networks"
    )
    latent_vector_size: LatentVectorSize = 100
    discriminator_dropout: float = Field(
        0.2, ge=0, le=0.99, description="share of the discriminators' units that dropout leaves out in each step"
    )
    weight_averaging: WeightAveraging = 0.999


class FAnoGANHyperparameters(GANHyperparameters):
    """The section `fanogan` of a hyperparameter file. The defaults are the paper's, where it gives a value."""

    score: Annotated[CriticScore, SELECTED_SCORE] = "paper"
    batch_size: BatchSize = 320
    learning_rate: LearningRate = 1e-4
    width: PyramidWidth = 64
    latent_vector_size: LatentVectorSize = 128
    critic_steps: int = Field(
        5,
        ge=1,
        le=100,
        description="number of critic steps for each step of the generator; each takes another part of the batch",
    )
    gradient_penalty_weight: float = Field(
        10.0, ge=0, description="weight of the gradient penalty in the critic's loss"
    )
    kappa: float = Field(1.0, ge=0, description="κ, weight of the critic's features in the score; the residual has 1")
    code_activation: Literal["linear", "tanh"] = Field(
        "linear",
        description="activation of the encoder's code; tanh bounds each number of a code to one standard deviation of "
        "the latent vectors, an option of the authors' code",
    )
    encoder_steps: int = Field(
        3000, ge=0, le=100_000_000, description="number of training steps of the encoder after the epochs"
    )

    @model_validator(mode="after")
    def _check_that_the_batch_can_be_divided(self) -> Self:
        if self.batch_size < self.critic_steps:
            raise ValueError(
                f"batch_size: expected at least critic_steps, {self.critic_steps}, received {self.batch_size}: each "
                "critic step of FAnoGAN takes a part of the batch"
            )
        return self


class SkipGANomalyHyperparameters(GANHyperparameters):
    """The section `skipganomaly` of a hyperparameter file. The defaults are the paper's."""

    width: PyramidWidth = 64
    latent_vector_size: LatentVectorSize = 100
    adversarial_loss_weight: float = Field(1.0, ge=0, description="weight of the discriminator's judgement")
    contextual_loss_weight: float = Field(40.0, ge=0, description="weight of the mean residual")
    latent_loss_weight: float = Field(
        1.0, ge=0, description="weight of the distance between the discriminator's features of image and reconstruction"
    )
    lambda_: float = Field(
        0.9, ge=0, le=1, description="λ, weight of the residual in the score; the discriminator's features have 1 − λ"
    )


class ClassifierHyperparameters(Hyperparameters):
    """The section `classifier` of a hyperparameter file."""

    score: Annotated[ClassifierScore, SELECTED_SCORE] = "paper"  # type: ignore[assignment]  # pydantic may widen a type
    width: PyramidWidth = 64
    latent_vector_size: int = Field(100, ge=1, le=100_000, description="number of features that distances refer to")


class ConditionalAnoGANHyperparameters(SearchHyperparameters):
    """The section `conditionalanogan` of a hyperparameter file."""

    searched_classes: int = Field(
        2,
        ge=1,
        le=100_000,
        description="number of classes that are searched for each image, the likeliest first; at most all of them",
    )


class EGBADHyperparameters(GANHyperparameters):
    """The section `egbad` of a hyperparameter file. The defaults are the paper's."""

    image_size: ImageSize = Field(28, ge=16, multiple_of=4)
    batch_size: BatchSize = 100
    epochs: Epochs = 100
    learning_rate: LearningRate = 1e-5
    width: int = Field(
        64,
        ge=2,
        le=1024,
        multiple_of=2,
        description="channels of the discriminator's first convolution; scales all networks",
    )
    latent_vector_size: LatentVectorSize = 200
    discriminator_dropout: float = Field(
        0.5, ge=0, le=0.99, description="share of the discriminator's units that dropout leaves out in each step"
    )
    encoder_activation: bool = Field(
        False,
        description="whether a LeakyReLU follows the encoder's first convolution, as in the authors' code since "
        "November 2018",
    )
    weight_averaging: WeightAveraging = 0.999
    reconstruction_loss_weight: float = Field(
        0.0, ge=0, description="weight of the mean residual in the encoder's loss; the paper has no such term"
    )
    consistency_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the mean residual in the losses of the encoder and the generator, as in CBiGAN; the "
        "paper has no such term",
    )
    code_consistency_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the mean difference between z and E(G(z)) in the losses of the encoder and the "
        "generator, as in CBiGAN; the paper has no such term",
    )
    alpha: float = Field(
        0.9, ge=0, le=1, description="α, weight of the residual in the score; the discriminator's part has 1 − α"
    )
    scoring: Literal["feature_matching", "cross_entropy"] = Field(
        "feature_matching",
        description="the discriminator's part of the score: the distance of its features, or −log D(x, E(x))",
    )


class GANomalyHyperparameters(GANHyperparameters):
    """The section `ganomaly` of a hyperparameter file. The defaults are the paper's."""

    width: PyramidWidth = 64
    latent_vector_size: LatentVectorSize = 100
    adversarial_loss_weight: float = Field(
        1.0, ge=0, description="weight of the distance between the discriminator's features of image and reconstruction"
    )
    contextual_loss_weight: float = Field(50.0, ge=0, description="weight of the mean residual")
    enc_loss_weight: float = Field(
        1.0, ge=0, description="weight of the distance between the codes of image and reconstruction"
    )
    discriminator_loss_floor: float = Field(
        0.2,
        ge=0,
        description="the discriminator is updated only while its loss is above this value; 0 always updates it",
    )


class KNNHyperparameters(ScoringHyperparameters):
    """The section `knn` of a hyperparameter file."""

    image_size: ImageSize = Field(28, ge=4)
    batch_size: BatchSize = 100
    memory_size: MemorySize = Field(60_000, description="highest number of normal training images to compare with")
    neighbours: int = Field(
        5, ge=1, le=10_000, description="number of nearest training images over which distances are averaged"
    )


class PCAHyperparameters(ScoringHyperparameters):
    """The section `pca` of a hyperparameter file."""

    image_size: ImageSize = Field(28, ge=4)
    batch_size: BatchSize = 100
    memory_size: int = Field(
        60_000,
        ge=2,
        le=10_000_000,
        description="highest number of normal training images that the components are fitted to",
    )
    explained_variance: float = Field(
        0.9, gt=0, lt=1, description="share of the images' variance that the principal components explain"
    )


def validate(schema: type[Schema], values: dict[str, Any]) -> Schema:
    """Turns names and values into an instance of a schema.

    Raises:
        InputError: a value is wrong, or values contradict each other.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as problem:
        raise InputError(f"hyperparameters {shortened(values)}: {explain(problem)}") from None


def explain(problem: ValidationError) -> str:
    """Pydantic's reasons in one clause. A value that matches no type of a union has one reason for each type."""
    messages = [error["msg"].removeprefix("Value error, ") for error in problem.errors()]
    without_duplicates = dict.fromkeys(messages)
    text = " or ".join(without_duplicates).replace("Input should be", "should be")
    return text[:1].lower() + text[1:]


def shortened(value: Any) -> str:
    """A value as JSON for an error message, cut to 80 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
