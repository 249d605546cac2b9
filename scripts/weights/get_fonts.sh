#!/usr/bin/env bash
# Fonts for rendered words, from Debian's packages, into a folder. Needs no root rights: packages are unpacked, not installed.
#   bash scripts/weights/get_fonts.sh fonts            about 130 packages, 150 MB to download
#   bash scripts/weights/get_fonts.sh fonts --large    also TeX Live's 500 families, 510 MB more (recommended)
# Then fonts/chosen holds those that can be read (scripts/weights/choose_fonts.py), for RenderedWords(fonts="fonts/chosen").
# They are free fonts under their own licences (most of them SIL OFL, GPL with font exception, or public domain), which
# stand in each package's copyright file, kept in fonts/all/PACKAGE. Runs on Debian and Ubuntu.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 2 ] || [ "${1:0:1}" = - ] || [ "${2:---large}" != --large ]; then
  echo "usage: bash scripts/weights/get_fonts.sh FOLDER [--large]" >&2
  exit 2
fi
folder=$1
scripts=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
packages="
  adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus adf-oldania
  adf-romande adf-solothurn adf-switzera adf-tribun adf-universalis adf-verana aenigma allerta arapey averia-gwf
  averia-sans-gwf averia-serif-gwf b612 bajaderka bebas-neue beteckna blankenburg breip cabin cabinsketch cantarell
  cherrybomb clear-sans comfortaa comic-neue courier-prime crosextra-caladea crosextra-carlito dancingscript dejavu-extra
  dkg-handwriting dosis dseg dustin ebgaramond ecolier-court engadget essays1743 eurofurence f500 fantasque-sans fanwood
  femkeklaver freefont-ttf gamaliel georgewilliams go goudybookletter havana humor-sans inconsolata inter isabella
  joscelyn junction junicode jura karla karmilla kaushanscript klaudia-berenika kristi lato le-murmure league-spartan
  leckerli-one levien-museum levien-typoscript liberation lindenhill linex linuxlibertine lobster lobstertwo mmcedar
  monofur mplus nanum-extra national-park ocr-a ocr-b okolaks oldstandard open-sans opendin oxygen paratype play prociono
  quattrocento quicksand radisnoir roadgeek roboto-slab roboto-unhinted routed-gothic rufscript sil-andika sil-charis
  sil-gentium-basic sjfonts smiley-sans solide-mirage sora staypuft stix summersby texgyre thai-tlwg-ttf tiresias
  tlwg-purisa-ttf tlwg-sawasdee-ttf tomsontalks tuffy ubuntu-title urw-base35 vollkorn woowa-bm yanone-kaffeesatz
  yrsa-rasa
"
names=()
for package in $packages; do names+=("fonts-$package"); done
if [ "${2:-}" = --large ]; then names+=(texlive-fonts-extra); fi
if [ -e "$folder/chosen" ]; then
  echo "error: $folder/chosen exists: move it away, or give another folder" >&2
  exit 1
fi
for tool in apt-get apt-cache dpkg-deb; do
  command -v $tool >/dev/null || { echo "error: no $tool here: this script needs Debian or Ubuntu" >&2; exit 1; }
done
mkdir -p "$folder/all"
cd "$folder"
here=$PWD
downloads=$(mktemp -d "$here/downloads.XXXXXX")
trap 'rm -rf "$downloads"' EXIT
offered=$(apt-cache pkgnames | sort)
known=()
for name in "${names[@]}"; do
  if grep -qx "$name" <<<"$offered"; then known+=("$name"); else echo "skipped $name: not in this release"; fi
done
if [ ${#known[@]} = 0 ]; then
  echo "error: no package is known: run apt-get update first" >&2
  exit 1
fi
(cd "$downloads" && apt-get download "${known[@]}")
for package in "$downloads"/*.deb; do
  name=$(basename "$package" | cut -d_ -f1)
  mkdir -p "all/$name"
  # Not every package has every kind of file, which tar counts as an error.
  dpkg-deb --fsys-tarfile "$package" |
    tar -x -C "all/$name" --wildcards --no-anchored '*.ttf' '*.otf' '*.TTF' '*.OTF' 'copyright' 2>/dev/null || true
done
cd - >/dev/null
"$python" "$scripts/choose_fonts.py" "$here/all" "$here/chosen"
