"""gRPC as both programs use it: addresses, TLS, limits."""

from __future__ import annotations

import dataclasses
import ipaddress
import pathlib

try:
  import grpc
except ImportError:
  raise ImportError("devices and server talk through gRPC: pip install grpcio") from None

from fedjax_face.edge.wire import CHUNK

SERVICE = "fedjax_face.split.Edge"
JOIN, SESSION = "join-bin", "session-bin"
"""Metadata of a call: of `Join` the request, of `Send` the session."""

# Of channels and servers: nothing larger than a piece of a frame is read, nothing is sent twice or
# through a proxy, and no two servers share a port.
OPTIONS = [("grpc.max_receive_message_length", CHUNK), ("grpc.max_send_message_length", CHUNK),
           ("grpc.so_reuseport", 0), ("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)]


@dataclasses.dataclass(frozen=True)
class Tls:
  """PEM files of one side; both sides show a certificate.

  Attributes:
    certificate: chain of this side.
    key: its private key.
    authority: certificates that the other side's must be signed by.
  """

  certificate: str
  key: str
  authority: str

  def server(self) -> grpc.ServerCredentials:
    """Credentials of a server that refuses clients without a certificate.

    Raises:
      OSError: a file cannot be read.
    """
    return grpc.ssl_server_credentials([(_read(self.key), _read(self.certificate))],
                                       _read(self.authority), require_client_auth=True)

  def client(self) -> grpc.ChannelCredentials:
    """Credentials of a client.

    Raises:
      OSError: a file cannot be read.
    """
    return grpc.ssl_channel_credentials(_read(self.authority), _read(self.key),
                                        _read(self.certificate))


def require_safe(address: str, tls: Tls | None, insecure: bool) -> None:
  """Refuses plain text on anything but loopback, unless it is asked for.

  Raises:
    ValueError: the address is not HOST:PORT, or would be used without TLS.
  """
  host, colon, port = address.rpartition(":")
  if not (host and colon and port.isdigit() and int(port) < 65536):
    raise ValueError(f"address {address!r}: expected HOST:PORT, e.g. 127.0.0.1:50051")
  if tls is None and not insecure and not _is_loopback(host):
    raise ValueError(f"address {address!r} is not loopback: give the three TLS files, or "
                     "--insecure to send everything in plain text")


def require_known_devices(address: str, tls: Tls | None, has_tokens: bool) -> None:
  """Refuses a server that anybody could join in the place of a device: a number has one owner.

  Args:
    address: HOST:PORT, of `require_safe`.
    tls: with it every device shows a certificate.
    has_tokens: whether every device must show a token of its own.

  Raises:
    ValueError: the address is not loopback, and there are neither TLS nor tokens.
  """
  if tls is None and not has_tokens and not _is_loopback(address.rpartition(":")[0]):
    raise ValueError(f"address {address!r} is not loopback, and without TLS and --tokens "
                     "anybody could join in the place of a device: give --tokens=FOLDER, in which "
                     "the server puts a secret for each device")


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host.strip("[]")).is_loopback
  except ValueError:
    return host == "localhost"


def _read(path: str) -> bytes:
  try:
    return pathlib.Path(path).read_bytes()
  except OSError as error:
    raise OSError(f"TLS file {path}: {error.strerror}") from error
