"""Finding benchmark images among training images, and leaving those out of training."""
