"""Models as they are used: loading, preprocessing, classifiers, models that write, outlier twins."""
