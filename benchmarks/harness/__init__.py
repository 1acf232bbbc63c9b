"""How everything here is measured, recorded, compared and drawn."""
