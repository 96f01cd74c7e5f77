"""Where archives come from and go to: files, folders, URLs, arrays, worker processes."""
