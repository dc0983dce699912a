"""Where the files of a layer come from: package indexes, downloads, archives."""
