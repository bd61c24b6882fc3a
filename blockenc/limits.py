"""How large things may be, where several modules have to agree."""

# Values of a block vector. Beyond this it is a mistake (a 512 x 512 block of RGB is below it).
MAX_BLOCK_LENGTH = 1 << 20
