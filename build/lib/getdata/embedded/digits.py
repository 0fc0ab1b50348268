"""scikit-learn's 1,797 handwritten digits as one .npz with a train and a test part."""

TRAIN = 1437  # the first 80 %; in file order, so most writers of the test part are new


def digits(folder):
    """Write digits.npz: {train,test}_images uint8 (n, 8, 8), values 0..16; {train,test}_labels.

    Raises ImportError if scikit-learn is not installed.
    """
    import numpy
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = data.images.astype(numpy.uint8), data.target.astype(numpy.int64)
    numpy.savez(
        folder / "digits.npz",
        train_images=images[:TRAIN],
        train_labels=labels[:TRAIN],
        test_images=images[TRAIN:],
        test_labels=labels[TRAIN:],
    )
