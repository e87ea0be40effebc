"""Where ``load_keras`` is imported from; it lies among the models."""

from gloro_fast.models.keras_weights import load_keras as load_keras
