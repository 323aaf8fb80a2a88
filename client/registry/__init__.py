"""From a hospital's own tables to patients: a source yields raw text cells, the codebook says what they mean."""

from client.registry.load import Registry, RegistryReport, registry_from
from client.registry.table import Table

__all__ = ["Registry", "RegistryReport", "Table", "registry_from"]
