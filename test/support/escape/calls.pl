# Makes each system call NAME=NUMBER with nothing but impossible arguments and prints `NAME ERROR`, one per line. Without a
# filter in the way the kernel gets as far as the arguments and complains about those.
use strict;
use warnings;

for my $call (@ARGV) {
  my ($name, $number) = split /=/, $call;
  my $result = syscall($number + 0, -1, -1, -1, -1, -1, -1);
  my ($error) = $result == -1 ? grep { $!{$_} } sort keys %! : ('none');
  print "$name ", $error // ($! + 0), "\n";
}
