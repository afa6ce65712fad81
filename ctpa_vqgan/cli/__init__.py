"""The typed front door: the bundle's workflows with checked keys, and the demo."""
