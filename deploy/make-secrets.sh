#!/bin/sh
# Files to try deploy/compose/secure.yml and deploy/swarm/secure.yml with:
#
#   deploy/make-secrets.sh [FOLDER]    default: secrets
#
#   ca.pem                  an authority of its own, whose key is thrown away
#   server.pem, server.key  a certificate for the servers and for Envoy, valid for 90 days
#   tokens.txt, token.txt   what servers read, and the one token that it lists, with all roles
#   envoy.yaml              deploy/envoy/envoy.yaml with its lines for TLS
#
# In production the certificates come from your authority, and each caller has its own token. Needs
# openssl, and the image polyhead, or another way to run its command: POLYHEAD="polyhead".
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:-secrets}
names=DNS:server,DNS:envoy,DNS:polyhead.internal,DNS:localhost,IP:127.0.0.1
if [ -e "$folder" ]; then
    echo "$folder is there already: remove it, or name another folder" >&2
    exit 1
fi
# Containers read the files as another user, so all may read them, but only the owner may enter.
mkdir -m 700 "$folder"
made=$(cd "$folder" && pwd)
trap '[ $? = 0 ] || rm -rf "$made"' EXIT # all of it or nothing
umask 022
cd "$folder"
quietly() { "$@" 2>openssl.log || { cat openssl.log >&2; exit 1; }; }

quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 \
    -subj "/CN=polyhead test authority" -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
    -subj /CN=server -keyout server.key -out server.csr
printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\n' "$names" >extensions.txt
quietly openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 90 \
    -extfile extensions.txt -out server.pem
rm -f ca.key ca.srl server.csr extensions.txt openssl.log
chmod 644 server.key

${POLYHEAD:-docker run --rm polyhead} token new --name compose --role infer --role admin \
    >tokens.txt 2>token.log || { cat token.log >&2; exit 1; }
sed -n 's/^token, not shown again: //p' token.log >token.txt
rm token.log
sed 's/#tls //' "$here/envoy/envoy.yaml" >envoy.yaml
echo "$folder: ca.pem server.pem server.key tokens.txt token.txt envoy.yaml"
