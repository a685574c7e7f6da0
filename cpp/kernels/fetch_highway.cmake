# hwy::hwy from Highway's release archive, verified by checksum and built with the including project.
set(CAAN_HIGHWAY_URL "https://github.com/google/highway/archive/refs/tags/1.2.0.tar.gz" CACHE STRING "Highway 1.2.0")
set(highway_sha256 7e0be78b8318e8bdbf6fa545d2ecb4c90f947df03f7aadc42c1967f019e63343)
set(highway_archive ${CMAKE_CURRENT_BINARY_DIR}/highway-1.2.0.tar.gz)
set(highway_source ${CMAKE_CURRENT_BINARY_DIR}/highway-1.2.0)

if(NOT EXISTS ${highway_source}/CMakeLists.txt)
  message(STATUS "No Highway 1.2 or newer is installed; downloading ${CAAN_HIGHWAY_URL}")
  file(DOWNLOAD ${CAAN_HIGHWAY_URL} ${highway_archive} STATUS highway_status INACTIVITY_TIMEOUT 30)
  list(GET highway_status 0 highway_failed)
  list(GET highway_status 1 highway_found)
  if(NOT highway_failed)
    file(SHA256 ${highway_archive} highway_hash)
    if(NOT highway_hash STREQUAL highway_sha256)
      set(highway_failed 1)
      set(highway_found "its SHA-256 is ${highway_hash}, not ${highway_sha256}")
    endif()
  endif()
  if(highway_failed)
    file(REMOVE ${highway_archive})
    message(FATAL_ERROR
      "Highway 1.2 or newer is not installed, and can't be downloaded from ${CAAN_HIGHWAY_URL}: ${highway_found}\n"
      "Install it (Debian 13, Ubuntu 25.04: apt-get install libhwy-dev; or cpp/tools/get_highway.sh DEST), and if it "
      "lies where CMake does not look, name its folder:\n"
      "  cmake -Dhwy_DIR=DEST/lib/cmake/hwy ...\n"
      "  pip install -C cmake.define.hwy_DIR=DEST/lib/cmake/hwy ./cpp/python")
  endif()
  file(ARCHIVE_EXTRACT INPUT ${highway_archive} DESTINATION ${CMAKE_CURRENT_BINARY_DIR})
endif()

set(HWY_FORCE_STATIC_LIBS ON CACHE INTERNAL "")
set(HWY_ENABLE_TESTS OFF CACHE INTERNAL "")
set(HWY_ENABLE_EXAMPLES OFF CACHE INTERNAL "")
set(HWY_ENABLE_CONTRIB OFF CACHE INTERNAL "")
set(HWY_ENABLE_INSTALL OFF CACHE INTERNAL "")
add_subdirectory(${highway_source} ${CMAKE_CURRENT_BINARY_DIR}/highway EXCLUDE_FROM_ALL)
# A system include, so that our warnings do not apply to its headers.
set_target_properties(hwy PROPERTIES
  POSITION_INDEPENDENT_CODE ON INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${highway_source})
add_library(hwy::hwy ALIAS hwy)
