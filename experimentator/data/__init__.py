"""Items and datasets: stacking, datasets over datasets, subsets that choose, splits, random draws by address."""
