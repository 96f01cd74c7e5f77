"""Archives: many images in independent blocks, packed and read.

api        `pack` and `unpack`, the public functions; `commands`: the same on the command line
reader     `Archive`, the images of an archive as a sequence
pack       items to blocks, as a stream: `plan` groups them, `workers` run `tasks`, which make `blocks`
library    models for blocks of many images; `pictures`: images read and coded one by one
sources    what is packed: folders, files, `arrays`, in `places`; `sinks`: what is unpacked to"""
