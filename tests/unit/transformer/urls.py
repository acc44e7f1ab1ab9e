"""Hostile and odd URLs with the HTTP code that each must get, and names with the addresses they resolve to."""

# ruff: noqa: RUF001, SIM905  (characters that look alike are the point, and long lists are easier to read in lines)

NAMES = {
    "public.test": ["93.184.215.14"],
    "public6.test": ["2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "both.test": ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"],
    "nat64.test": ["64:ff9b::5db8:d70e"],  # 93.184.215.14 as a cluster with IPv6 only sees it
    "localhost": ["127.0.0.1"],
    "localhost6.test": ["::1"],
    "loopback.test": ["127.8.9.10"],
    "private.test": ["10.0.0.5"],
    "cluster.test": ["172.20.0.1"],
    "router.test": ["192.168.1.1"],
    "ula.test": ["fd12:3456::1"],
    "linklocal.test": ["fe80::1"],
    "scoped.test": ["fe80::1%eth0"],
    "public-scoped.test": ["2606:2800:21f::1%eth0"],
    "metadata.google.internal": ["169.254.169.254"],
    "metadata6.test": ["fd00:ec2::254"],
    "zero.test": ["0.0.0.0"],
    "multicast.test": ["224.0.0.251"],
    "broadcast.test": ["255.255.255.255"],
    "mapped.test": ["::ffff:127.0.0.1"],
    "compatible.test": ["::127.0.0.1"],
    "nat64-private.test": ["64:ff9b::10.0.0.5"],
    "6to4.test": ["2002:7f00:1::"],
    "garbage.test": ["not-an-address"],
    "last-bad.test": ["93.184.215.14", "127.0.0.1"],
    "first-bad.test": ["10.0.0.5", "93.184.215.14"],
    "bad-among-many.test": [*(f"93.184.215.{i}" for i in range(1, 20)), "169.254.169.254"],
    "bad6.test": ["93.184.215.14", "::1"],
    "xn--bcher-kva.test": ["10.0.0.5"],
}

GOOD = """
    http://public.test/dog.jpg  HTTP://PUBLIC.TEST/dog.jpg  https://public.test  http://public.test.
    http://public.test:8080/dog.jpg  http://public.test:/dog.jpg  http://public.test:00080/dog.jpg
    http://public.test?dog  http://public.test#dog  http://public6.test/  http://both.test/  http://nat64.test/
    http://93.184.215.14/  http://93.184.215.14./  http://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/
    http://[64:ff9b::93.184.215.14]:8080/  http://ｐｕｂｌｉｃ.ｔｅｓｔ/  http://public。test/  http://public.test/a@b:c
    http://public.test/?u=http://127.0.0.1/
""".split()
GOOD += ["http://public.test/a dog.jpg", "http://public.test/\\127.0.0.1"]

REFUSED = """
    http://localhost/  http://LOCALHOST/  http://LocalHost./  http://localhost:8080/v2/health/live  https://localhost/
    http://localhost6.test/  http://loopback.test/  http://private.test/  http://cluster.test:443/
    http://router.test/  http://ula.test/  http://linklocal.test/  http://scoped.test/  http://public-scoped.test/
    http://metadata.google.internal/computeMetadata/v1/  http://metadata6.test/  http://zero.test/
    http://multicast.test/  http://broadcast.test/  http://mapped.test/  http://compatible.test/
    http://nat64-private.test/  http://6to4.test/  http://garbage.test/  http://last-bad.test/  http://first-bad.test/
    http://bad-among-many.test/  http://bad6.test/  http://ｌｏｃａｌｈｏｓｔ/  http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/  http://bücher.test/
    http://0.0.0.0/  http://0.0.0.0:8080/  http://0.1.2.3/  http://10.0.0.1/  http://10.255.255.255/
    http://100.64.0.1/  http://100.100.100.200/latest/meta-data/  http://100.127.255.255/  http://127.0.0.1/
    http://127.0.0.1./  http://127.0.0.1:80/  http://127.1.2.3/  http://127.255.255.254/  http://169.254.0.1/
    http://169.254.169.254/latest/meta-data/iam/security-credentials/  http://169.254.170.2/v2/credentials
    http://168.63.129.16/machine?comp=goalstate  http://172.16.0.1/  http://172.31.255.255/  http://192.0.0.1/
    http://192.0.0.192/opc/v2/instance/  http://192.0.2.1/  http://192.88.99.1/  http://192.168.0.1/
    http://198.18.0.1/  http://198.19.255.255/  http://198.51.100.7/  http://203.0.113.9/  http://224.0.0.1/
    http://239.255.255.250:1900/  http://240.0.0.1/  http://255.255.255.255/  http://１２７.０.０.１/  http://①②⑦.⓪.⓪.①/
    http://127。0。0。1/  http://127．0．0．1/
    http://[::]/  http://[::1]/  http://[::1]:8080/  http://[0:0:0:0:0:0:0:1]/
    http://[0000:0000:0000:0000:0000:0000:0000:0001]/  http://[::127.0.0.1]/  http://[::93.184.215.14]/
    http://[::ffff:127.0.0.1]/  http://[::FFFF:7F00:1]/  http://[0:0:0:0:0:ffff:7f00:0001]/  http://[::ffff:10.0.0.1]/
    http://[::ffff:169.254.169.254]/  http://[::ffff:93.184.215.14]/  http://[::ffff:0:127.0.0.1]/
    http://[64:ff9b::127.0.0.1]/  http://[64:ff9b::a9fe:a9fe]/  http://[64:ff9b::10.0.0.1]/
    http://[64:ff9b:1::93.184.215.14]/  http://[64:ff9b:1:ffff::1]/  http://[100::1]/  http://[2001::1]/
    http://[2001:0:7f00:1::]/  http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/  http://[2001:2::1]/
    http://[2001:10::1]/  http://[2001:20::1]/  http://[2001:db8::1]/  http://[2002:7f00:1::]/
    http://[2002:a9fe:a9fe::]/  http://[2002:5db8:d70e::1]/  http://[3fff::1]/  http://[4000::1]/  http://[5f00::1]/
    http://[fc00::1]/  http://[fd00:ec2::254]/latest/meta-data/  http://[fd20:ce::254]/computeMetadata/v1/
    http://[fe80::1]/  http://[fe80::a9fe:a9fe]/  http://[fe80::1%25eth0]/  http://[fe80::1%eth0]/  http://[::1%25lo]/
    http://[2606:2800:21f::1%25eth0]/  http://[fec0::1]/  http://[ff02::1]/  http://[ff0e::1]/
""".split()

# fmt: off
MALFORMED = [
    "", " ", "/", "dog.jpg", "//public.test/", "http", "http:", "http:/", "http://", "http:///",
    "http:///public.test/", "http:////127.0.0.1/", "http:/127.0.0.1/", "http:127.0.0.1", "http:\\\\127.0.0.1\\",
    "http:/\\127.0.0.1/", "http://?x", "http://#x", "http://:80/", "http://./", "http://../", "http://.public.test/",
    "http://public..test/", "http://public.test../", "http://127.0.0.1../", "http://public.test:0/",
    "http://public.test:65536/", "http://public.test:99999/", "http://public.test:4294967376/",
    "http://public.test:-80/", "http://public.test:+80/", "http://public.test:80:80/", "http://public.test:８０/",
    "http://public.test:http/", "http://public.test:8 0/", "http://public.test: 80/",
    "http://public.test:" + "8" * 5000,
    # addresses that programs read in different ways
    "http://0/", "http://00/", "http://0x/", "http://1/", "http://127/", "http://127.1/", "http://127.0.1/",
    "http://0177.0.0.1/", "http://0177.0.0.01/", "http://00000177.0.0.1/", "http://127.0.0.01/",
    "http://127.0.0.1.1/", "http://127.0.0.256/", "http://2130706433/", "http://2130706433./", "http://017700000001/",
    "http://0x7f000001/", "http://0x7F000001/", "http://0X7f.0x0.0x0.0x1/", "http://0x7f.1/", "http://0x7f.0.0.1/",
    "http://127.0.0.0x1/", "http://18446744071562067969/", "http://2852039166/", "http://169.254.43518/",
    "http://0251.0376.0251.0376/", "http://1572395042/", "http://１２７.1/", "http://٢١٣٠٧٠٦٤٣٣/",
    # hosts with characters that hosts do not have
    "http://%31%32%37.0.0.1/", "http://127%2e0%2e0%2e1/", "http://localhost%00.public.test/",
    "http://%6c%6f%63%61%6c%68%6f%73%74/", "http://public.test%2f@127.0.0.1/".replace("@", "%40"),
    "http://public.test%23.internal/", "http://public.test\\.private.test/", "http://private.test\\public.test/",
    "http://private.test;public.test/", "http://private.test,public.test/", "http://private.test&public.test/",
    "http://public.test private.test/", "http:// private.test/", "http://private.test /", "http://*/",
    "http://$HOST/", "http://{127.0.0.1}/", "http://<127.0.0.1>/", "http://'127.0.0.1'/", "http://127.0.0.1`/",
    "http://public.test＠private.test/", "http://private.test／public.test/", "http://private.test＃public.test/",
    "http://℀.test/", "http://a‥b/", "http://\u00adlocalhost/", "http://local\u200bhost/", "http://localhost\u2060/",
    "http://\u202elocalhost/", "http://-\ud800/", "http://" + "a" * 64 + ".test/", "http://" + "a." * 127 + "test/",
    "http://" + "ä" * 300 + ".test/",
    # brackets
    "http://[]/", "http://[::1/", "http://::1/", "http://::1]/", "http://[[::1]]/", "http://[::1]public.test/",
    "http://public.test[::1]/", "http://[::1]:80:80/", "http://[127.0.0.1]/", "http://[localhost]/",
    "http://[v1.127]/", "http://[::1::]/", "http://[::12345]/", "http://[::ffff:127.1]/",
    "http://[::ffff:0x7f.0.0.1]/", "http://[ ::1]/",
    # invisible characters
    "http://127.0.0.1\t/", "http://local\thost/", "http://local\nhost/", "http://local\rhost/", "ht\ntp://localhost/",
    "\thttp://localhost/", " http://public.test/", "http://public.test/\n",
    "http://public.test/\r\nHost: private.test", "http://public.test/\x00", "http://public.test\x00.private.test/",
    "http://public.test/\x7f", "http://public.test/\u2028", "http://public.test/\ud800", "\ufeffhttp://public.test/",
    # schemes that are none
    "1http://public.test/", "-http://public.test/", "://public.test/", "ｈｔｔｐ://public.test/", "data:",
    "data:image/png", "data:image/png;base64", "data:image/png;base64,!!!!", "data:image/png;base64,A",
    "data:image/png,\u00e9",
]
# fmt: on

OUT_OF_RANGE = """
    file:///etc/passwd  FILE:///etc/passwd  file://localhost/etc/passwd  file:/etc/passwd  ftp://public.test/dog.jpg
    gopher://127.0.0.1:6379/_FLUSHALL  dict://127.0.0.1:11211/stats  ldap://127.0.0.1/  tftp://127.0.0.1/
    sftp://127.0.0.1/  smb://127.0.0.1/share  jar:http://127.0.0.1!/  netdoc:///etc/passwd  unix:/var/run/docker.sock
    http+unix://%2fvar%2frun%2fdocker.sock/  ws://public.test/  wss://public.test/  tcp://public.test:80/
    s3://bucket/dog.jpg  gs://bucket/dog.jpg  javascript:alert(1)  about:blank  blob:http://public.test/x
    view-source:http://127.0.0.1/  httpx://public.test/  http.://public.test/  localhost:8080/  url:http://127.0.0.1/
    http://user@public.test/  http://user:password@public.test/  http://:password@public.test/  http://@public.test/
    http://@127.0.0.1/  http://public.test@127.0.0.1/  http://public.test:80@127.0.0.1/  http://127.0.0.1@public.test/
    http://a@b@public.test/  http://public.test%2f@127.0.0.1/  http://user@[::1]/  data:,hello
    data:text/html,<script>  data:text/html;image/png;base64,AAAA  data:application/octet-stream;base64,AAAA
""".split()
OUT_OF_RANGE += [
    "http://public.test\\@127.0.0.1/",
    "http://public.test/" + "a" * 8192,
    "http://public.test/?" + "a" * 100_000,
]

UNREACHABLE = [
    "http://unknown.test/",
    "http://localhost.localdomain/",
    "http://127.0.0.1.test/",
    "http://0x7f.test/",
    "http://xn--/",
    "http://_/",
    "http://-/",
    "http://a/",
]

HOSTILE = [
    *((url, 403) for url in REFUSED),
    *((url, 400) for url in MALFORMED),
    *((url, 422) for url in OUT_OF_RANGE),
    *((url, 424) for url in UNREACHABLE),
]
