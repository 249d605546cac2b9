"""Making data sets as Union14M was made: words cut out of pictures, copies left out, levels of difficulty."""
