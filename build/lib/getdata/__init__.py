"""Data sets: fetched, checked, unpacked, or built on the spot. `./getdata.sh -h` tells the use.

catalogue.toml  what each data set consists of and where it comes from
cli             the command line
settings        the environment and the catalogue, read
lock            one getdata at a time
install         one data set made complete and linked
obtain          its files, each from the first address that has it
addresses       where to look for a file
download        one file from one URL; parts: half downloads; watched: deadlines
unpack          archives
moving, links   files to their places, links to where the scripts look
checksums       sizes and digests of files
folder_record   what a data set's folder holds
builders        data sets that are computed: embedded/, enwik8
errors          what can go wrong, and who handles it

Nothing outside the standard library is needed but requests and tqdm for downloads, filelock, and
scikit-learn for the digits.
"""
