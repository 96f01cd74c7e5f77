"""Archives: many images in independent blocks, packed and read.

api        `pack` and `unpack`, the public functions
reader     `Archive`, the images of an archive as a sequence
pack       items to blocks, as a stream: `plan` groups them, workers run `tasks`, which make `blocks`; `settle` decides
           which of them go into `solid` blocks
library    models for blocks of many images; `pictures`: images read and coded one by one
io         where images come from and go to: files, folders, URLs, arrays; and worker processes"""
