"""Networks: timm models as the paper builds them, weights in, trained models out."""
