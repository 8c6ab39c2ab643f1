# One attempt to get out of a sandbox: `perl attempt.pl NAME [ARGUMENT...]` prints `done`, with what was gained, or
# `refused ERROR`. Run outside, as a control, the same attempt must be able to succeed. Perl, because every Debian has it
# and it makes raw system calls.
use strict;
use warnings;
use Errno ();
use Socket;
use Config;

my $arm = $Config{archname} =~ /^aarch64/;
sub number { my ($x64, $arm64) = @_; return $arm ? $arm64 : $x64; }

sub refused {
  my ($code) = @_;
  my ($name) = grep { Errno->can($_) && Errno->can($_)->() == $code } sort keys %!;
  print 'refused ', $name // $code, "\n";
  exit 0;
}
sub gained { print "done @_\n"; exit 0; }
sub expect { my ($result) = @_; refused($! + 0) if !defined $result || $result eq '-1' || $result eq ''; return $result; }

my %attempts = (
  read => sub { open my $file, '<', $_[0] or refused($! + 0); my $line = <$file> // ''; chomp $line; gained($line); },
  write => sub { open my $file, '>>', $_[0] or refused($! + 0); print $file "x"; close $file or refused($! + 0); gained(); },
  list => sub { opendir my $directory, $_[0] or refused($! + 0); gained(sort grep { !/^\.\.?$/ } readdir $directory); },
  tcp => sub {
    socket(my $socket, PF_INET, SOCK_STREAM, 0) or refused($! + 0);
    connect($socket, pack_sockaddr_in($_[1], inet_aton($_[0]))) or refused($! + 0);
    gained();
  },
  udp => sub {
    socket(my $socket, PF_INET, SOCK_DGRAM, 0) or refused($! + 0);
    defined send($socket, 'x', 0, pack_sockaddr_in(53, inet_aton($_[0]))) or refused($! + 0);
    gained();
  },
  # A leading @ stands for the NUL of an abstract name.
  unix => sub {
    my ($name) = @_;
    $name =~ s/^@/\0/;
    socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or refused($! + 0);
    connect($socket, pack_sockaddr_un($name)) or refused($! + 0);
    gained();
  },
  socket => sub { expect(syscall(number(41, 198), $_[0] + 0, $_[1] + 0, ($_[2] // 0) + 0)); gained(); },
  signal => sub { kill(0, $_[0] + 0) ? gained() : refused($! + 0); },
  unshare => sub { expect(syscall(number(272, 97), hex $_[0])); gained(); },
  # As fork, but into new namespaces; the child ends at once.
  clone => sub {
    my $pid = expect(syscall(number(56, 220), 17 | hex $_[0], 0, 0, 0, 0));
    exec '/bin/true' if $pid == 0;
    waitpid $pid, 0;
    gained();
  },
  clone3 => sub { my $none = "\0" x 8; expect(syscall(435, $none, 1)); gained(); },
  mount => sub {
    my ($what, $where, $type) = ('tmpfs', $_[0], 'tmpfs');
    expect(syscall(number(165, 40), $what, $where, $type, 0, 0));
    gained();
  },
  ptrace => sub {
    my $child = fork // refused($! + 0);
    if ($child == 0) { sleep 10; exit 0; }
    my $result = syscall(number(101, 117), 16, $child, 0, 0);
    my $error = $! + 0;
    kill 'KILL', $child;
    $result == 0 ? gained() : refused($error);
  },
  io_uring => sub { my $parameters = "\0" x 120; expect(syscall(425, 4, $parameters)); gained(); },
  # A one-element array map.
  bpf => sub { my $map = pack 'L4', 2, 4, 4, 1; $map .= "\0" x 56; expect(syscall(number(321, 280), 0, $map, length $map)); gained(); },
  keyctl => sub { expect(syscall(number(250, 219), 0, -3, 1)); gained(); },
  personality => sub { expect(syscall(number(135, 92), hex $_[0])); gained(); },
  type_into_terminal => sub {
    open my $terminal, '+<', '/dev/ptmx' or refused($! + 0);
    my $letter = 'x';
    ioctl($terminal, 0x5412, $letter) ? gained() : refused($! + 0);
  },
  device => sub {
    my ($path) = @_;
    expect(syscall(number(259, 33), -100, $path, 0020666, (1 << 8) | 1));
    gained();
  },
  identity => sub { gained("real $< effective $>"); },
  # Every environment in sight, searched for a word.
  environments => sub {
    my @found;
    for my $file (glob '/proc/[0-9]*/environ') {
      open my $environment, '<', $file or next;
      local $/;
      push @found, $file if index(<$environment> // '', $_[0]) >= 0;
    }
    @found ? gained(@found) : refused(Errno::ENOENT());
  },
  # Every process in sight, searched for a word in its arguments. The word is given backwards, for this attempt and those
  # around it have it in their arguments.
  processes => sub {
    my @found;
    my $word = reverse $_[0];
    for my $file (glob '/proc/[0-9]*/cmdline') {
      open my $arguments, '<', $file or next;
      local $/;
      push @found, $file if index(<$arguments> // '', $word) >= 0;
    }
    @found ? gained(@found) : refused(Errno::ENOENT());
  },
  # What any process here holds open besides the three everybody has, without the ones used for looking.
  descriptors => sub {
    my @found;
    for my $link (glob '/proc/[0-9]*/fd/*') {
      my $target = readlink $link // next;
      my ($number) = $link =~ m{/(\d+)$};
      push @found, "$number=$target" if $number > 2 && index($target, $_[0]) >= 0;
    }
    @found ? gained(@found) : refused(Errno::ENOENT());
  },
  # A program of the 32-bit convention: `mov eax, 1; mov ebx, 42; int 0x80`, as the smallest ELF file there is.
  foreign_program => sub {
    my $path = "$_[0]/foreign";
    my $code = "\xb8\x01\0\0\0\xbb\x2a\0\0\0\xcd\x80";
    my $base = 0x08048000;
    my $header = "\x7fELF\x01\x01\x01" . "\0" x 9 . pack('SSLLLLLSSSSSS', 2, 3, 1, $base + 84, 52, 0, 0, 52, 32, 1, 0, 0, 0);
    my $segment = pack 'L8', 1, 0, $base, $base, 84 + length $code, 84 + length $code, 5, 0x1000;
    open my $file, '>', $path or refused($! + 0);
    binmode $file;
    print $file $header, $segment, $code;
    close $file;
    chmod 0755, $path;
    system { $path } $path;
    refused(Errno::ENOEXEC()) if $? == -1;
    $? >> 8 == 42 ? gained() : (print('killed ', $? & 127, "\n"), exit 0);
  },
);

my $name = shift @ARGV;
my $attempt = $attempts{$name // ''} or die "no such attempt\n";
$attempt->(@ARGV);
